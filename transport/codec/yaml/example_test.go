package yaml_test

import (
	"fmt"

	"github.com/postbus/postbus/transport/codec/yaml"
)

func ExampleNew() {
	type Goal struct {
		Frame  string    `yaml:"frame"`
		Points []float64 `yaml:"points"`
	}
	c := yaml.New[Goal]()
	body, err := c.Encode(Goal{Frame: "map", Points: []float64{1, 2.5}})
	fmt.Printf("%s, %v\n%s", c.ContentType(), err, body)

	// A person writes another style, and a key that Goal does not have.
	goal, err := c.Decode([]byte("{frame: odom, points: [3], urgent: yes}"))
	fmt.Println(goal, err)
	// Output:
	// application/yaml, <nil>
	// frame: map
	// points:
	//   - 1
	//   - 2.5
	// {odom [3]} <nil>
}
